"""Tables of instances as files: what a format cannot hold is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedseg_large.errors import UsageError
from embedseg_large.storage.tables import Table


def test_tracks_identify_an_instance_in_an_anndata_and_are_no_features() -> None:
    pytest.importorskip("anndata")
    tracks = np.array([2**25 + 1, 7])
    columns = {"label": np.array([1, 2]), "voxels": np.array([5, 6])}
    found = Table(columns | {"track_id": tracks, "parent_track_id": tracks - 1}).to_anndata()
    assert list(found.var_names) == ["voxels"]
    assert found.obs["track_id"].tolist() == tracks.tolist()
    assert found.obs["parent_track_id"].tolist() == (tracks - 1).tolist()


@pytest.mark.parametrize("largest", [2**63 - 1, 2**63, 2**64 - 1])
def test_labels_that_an_anndata_cannot_hold_are_refused(tmp_path: Path, largest: int) -> None:
    pytest.importorskip("anndata")
    table = Table({"label": np.array([1, largest], np.uint64), "voxels": np.array([5, 6])})
    if largest < 2**63:
        assert table.to_anndata().obs["instance_id"].tolist() == [1, largest]
        return
    with pytest.raises(UsageError, match=rf"label {largest} .*write \.csv or \.parquet") as caught:
        table.to_h5ad(tmp_path / "a.h5ad")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    table.to_csv(tmp_path / "a.csv")
    assert f"\n{largest},6" in (tmp_path / "a.csv").read_text()
