"""What is loaded and run: small presets built from config, published checkpoints, feature encoders."""
