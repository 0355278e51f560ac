from .case import Drawn as Drawn
from .case import OpenCase as OpenCase
from .case import Sizes as Sizes
from .case import open_case as open_case
from .command import view as view
