"""Work on more sounds than anybody waits for: one file of embeddings, or parts that machines share."""

from .store import METADATA_KEY, EmbeddingStore, fingerprint, settings_of

__all__ = ["METADATA_KEY", "EmbeddingStore", "fingerprint", "settings_of"]
