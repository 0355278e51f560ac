from .transforms import NormalizeCrop as NormalizeCrop
from .transforms import NormalizeCropd as NormalizeCropd
from .transforms import RandomRater as RandomRater
from .transforms import RandomRaterd as RandomRaterd
from .transforms import RaterConsensus as RaterConsensus
from .transforms import RaterConsensusd as RaterConsensusd
from .transforms import WindowHU as WindowHU
from .transforms import WindowHUd as WindowHUd
