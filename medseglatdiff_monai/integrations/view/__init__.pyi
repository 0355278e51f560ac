from .case import OpenCase as OpenCase
from .case import Shown as Shown
from .case import open_case as open_case
from .command import view as view
