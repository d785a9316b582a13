"""Training stages; the only folder that imports trl."""
