from .transforms import NormalizeCrop as NormalizeCrop
from .transforms import NormalizeCropd as NormalizeCropd
from .transforms import RandomReader as RandomReader
from .transforms import RandomReaderd as RandomReaderd
from .transforms import ReaderConsensus as ReaderConsensus
from .transforms import ReaderConsensusd as ReaderConsensusd
from .transforms import WindowHU as WindowHU
from .transforms import WindowHUd as WindowHUd
