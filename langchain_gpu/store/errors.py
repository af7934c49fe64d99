"""Errors of a store; each message says what is wrong, where, and what to do."""

from __future__ import annotations


class StoreError(ValueError):
    """Base of every error of a store."""


class StoreNotFoundError(StoreError):
    """The folder holds no store."""


class StoreVersionError(StoreError):
    """The store was written in a format this version does not know."""


class DamagedStoreError(StoreError):
    """The folder's files do not belong together, or are not what was written."""


class StoreLockedError(StoreError):
    """Another writer holds the folder."""


class StoreChangedError(StoreError):
    """Another writer has saved to the folder since this store was loaded or saved there."""


class WrongModelError(StoreError):
    """The store holds vectors of another embedding model."""


class DocumentError(StoreError):
    """A document cannot be stored: its id, text or metadata. Nothing of its call was."""


__all__ = [
    "DamagedStoreError",
    "DocumentError",
    "StoreChangedError",
    "StoreError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StoreVersionError",
    "WrongModelError",
]
