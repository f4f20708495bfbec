"""The contract of the storage, on a file and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel.testing.storage import SharedStorageContract, StorageContract


class TestFile(StorageContract, SharedStorageContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'größe.db'}"


class TestMemory(StorageContract):
    @pytest.fixture
    def url(self) -> str:
        return "sqlite:///:memory:"
