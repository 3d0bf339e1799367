"""Tables of instances as files: what a format cannot hold is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedseg_large.errors import UsageError
from embedseg_large.storage.tables import Table


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
