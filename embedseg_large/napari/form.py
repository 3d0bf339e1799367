"""Rows of fields, with their labels aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QWidget


class Form:
    """Fields below one another.

    Parameters
    ----------
    rows
        Label and field, or several fields side by side; fields are magicgui's, or Qt's widgets.
    """

    def __init__(self, rows: Sequence[tuple[str, Any] | tuple[str, Sequence[Any]]]) -> None:
        self.native = QWidget()
        self._layout = QFormLayout(self.native)
        self._layout.setFieldGrowthPolicy(QFormLayout.AllNonFixedFieldsGrow)
        self._rows: dict[str, QWidget] = {}
        for label, fields in rows:
            row = _side_by_side(fields) if isinstance(fields, tuple) else _native(fields)
            self._rows[label] = row
            if label:
                self._layout.addRow(label, row)
            else:
                self._layout.addRow(row)

    def show(self, label: str, *, visible: bool) -> None:
        """Show or hide a row."""
        row = self._rows[label]
        row.setVisible(visible)
        self._layout.labelForField(row).setVisible(visible)


def message_line() -> QLabel:
    """Create a label for messages; long lines are wrapped, and can be copied."""
    label = QLabel()
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextSelectableByMouse)
    return label


def _side_by_side(fields: tuple[Any, ...]) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for field in fields:
        layout.addWidget(_native(field))
    return row


def _native(field: Any) -> QWidget:
    return field if isinstance(field, QWidget) else field.native
