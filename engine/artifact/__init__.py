"""The engine directory on disk: file names, manifest, hashes, and how it is read and written."""
