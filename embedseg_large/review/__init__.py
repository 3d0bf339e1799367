"""Proofreading: instances in order of doubt, and decisions about them that can be undone.

::

    doubt       how doubtful each instance is, and why: the queue
    edits       the possible decisions (accept, delete, split, merge, paint) and their notation
    change      the voxels that an edit changes, forwards and backwards
    log         every decision in a separate, immutable object: replay, undo, redo
    voxels      the current labels: changed chunks, and the source for all others
    table       measurements of the instances of the source
    place       where labels, review and copy are
    identity    whether the labels have changed since the review began
    opening     opens the labels of a timepoint, its log and its voxels
    review      a review of one label volume: all of the above in one place
    published   the finished copy, ``labels/NAME_reviewed``
    annotation  training masks: only reviewed regions are annotated

A review is stored beside its labels, which it never changes::

    STORE/labels/nuclei/                       the source
    STORE/reviews/nuclei_reviewed/
          review.json                          which labels, and their state
          log/00000000, 00000001, ...          one decision per object
          voxels/                              an array; only chunks with changed voxels exist
          instances.npz                        sizes and positions of the source's instances
    STORE/labels/nuclei_reviewed/              written on demand
"""
