"""Video files and pictures: videos are written block by block, and read as a viewer shows them.

Names are imported when they are first used, so that file names can be checked without PyAV.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longlive_models.video.blocks import Timing as Timing
    from longlive_models.video.blocks import Video as Video
    from longlive_models.video.blocks import VideoBlock as VideoBlock
    from longlive_models.video.files import VideoWriter as VideoWriter
    from longlive_models.video.files import contact_sheet as contact_sheet
    from longlive_models.video.files import write_png as write_png
    from longlive_models.video.reader import CutShort as CutShort
    from longlive_models.video.reader import read_image as read_image
    from longlive_models.video.reader import read_video as read_video
else:
    from longlive_models.lazy import lazy as _lazy

    __getattr__, __dir__ = _lazy(
        __name__,
        {
            "CutShort": "reader",
            "Timing": "blocks",
            "Video": "blocks",
            "VideoBlock": "blocks",
            "VideoWriter": "files",
            "contact_sheet": "files",
            "read_image": "reader",
            "read_video": "reader",
            "write_png": "files",
        },
    )
