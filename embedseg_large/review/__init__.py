"""Proofreading: the most doubtful instances first, decisions about them that can be undone.

::

    doubt       how doubtful each instance is, and why: the queue
    edits       what can be decided: accept, delete, split, merge, paint; and how it is written
    change      the voxels that an edit changes, forwards and backwards
    log         every decision in an object of its own, never changed: replay, undo, redo
    voxels      the labels as they are now: changed chunks, and the source for all others
    table       what is known of the instances of the source
    place       where labels, review and copy are
    identity    whether the labels are still those that were reviewed
    opening     the labels of a timepoint, its log and its voxels
    review      a review of one label volume: all of the above in one place
    published   the finished copy, ``labels/NAME_reviewed``
    annotation  training masks: what was looked at, and nothing else

A review lives beside the labels that it is of, which it never changes::

    STORE/labels/nuclei/                       the source
    STORE/reviews/nuclei_reviewed/
          review.json                          which labels, and what they were like
          log/00000000, 00000001, ...          one decision each
          voxels/                              an array; only chunks with a changed voxel are there
          instances.npz                        sizes and places of the source's instances
    STORE/labels/nuclei_reviewed/              written on demand
"""
