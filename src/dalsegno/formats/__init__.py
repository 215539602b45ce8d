"""Bytes on disk and on the wire: pure encoders and decoders, one owner for each format."""
