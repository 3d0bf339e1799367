"""The exceptions of embedseg_large.

Each is also the builtin that fits, says what was found, where, and what to do, in one line.

::

    EmbedSegError
    ├── UsageError (ValueError)             an argument is wrong
    │   └── LabelsExistError (FileExistsError)   the name is taken and overwrite was not asked for
    ├── VolumeError (ValueError)            an image or label volume cannot be used
    │   ├── VolumeNotFoundError (FileNotFoundError)
    │   ├── MetadataError                   the store is there, its metadata is not usable
    │   ├── IntensityError                  NaN, infinity, or a constant image
    │   │   └── BlankError                  no voxel holds data
    │   ├── CorruptChunkError (OSError)     stored voxels that cannot be decoded
    │   └── UnreachableError (OSError)      no answer, or no permission to read
    ├── ModelError (ValueError)             no model, or the wrong one for the image
    ├── OutputError (OSError)               the output cannot be written: read-only, disk full
    │   └── PlaceError                      also a UsageError: so said before any work
    └── RunError (RuntimeError)             a run that had begun could not be finished
"""


class EmbedSegError(Exception):
    """Base of every exception that embedseg_large raises on purpose."""


class UsageError(EmbedSegError, ValueError):
    """An argument is wrong."""


class LabelsExistError(UsageError, FileExistsError):
    """Labels of that name exist, and overwriting was not asked for."""


class VolumeError(EmbedSegError, ValueError):
    """An image or label volume cannot be used."""


class VolumeNotFoundError(VolumeError, FileNotFoundError):
    """There is no volume at that place, or no such level in it."""


class MetadataError(VolumeError):
    """A store is there, but its metadata cannot be used."""


class IntensityError(VolumeError):
    """The image has NaN or infinite voxels, or is constant."""


class BlankError(IntensityError):
    """No voxel of the image, or of a timepoint, holds data."""


class CorruptChunkError(VolumeError, OSError):
    """Stored voxels cannot be decoded."""


class UnreachableError(VolumeError, OSError):
    """A file or object is there, or may be, and cannot be read: no answer, no permission."""


class ModelError(EmbedSegError, ValueError):
    """A file is not a model, or the model does not fit the image."""


class OutputError(EmbedSegError, OSError):
    """The output cannot be written."""


class PlaceError(UsageError, OutputError):
    """Nothing can be written at the place that was given, found before any work."""


class RunError(EmbedSegError, RuntimeError):
    """A run that had begun could not be finished."""
