"""Files -> Documents -> chunks.

>>> from langchain_gpu.loaders import Chunker, find_files, load_file
>>> chunker = Chunker(embedding)  # sized by the embedder's own tokenizer and window
>>> found = find_files(["docs"])
>>> chunks = [chunk for path in found.files for chunk in chunker.split(load_file(path))]

Files are read with pypdf, beautifulsoup4 and the standard library, and cut with
langchain-text-splitters (`pip install "langchain-gpu[cli]"`).
"""

from langchain_gpu.loaders.chunking import Chunker
from langchain_gpu.loaders.finding import Failure, Found, find_files
from langchain_gpu.loaders.reading import SUFFIXES, LoadError, load_file, source_name

__all__ = [
    "SUFFIXES",
    "Chunker",
    "Failure",
    "Found",
    "LoadError",
    "find_files",
    "load_file",
    "source_name",
]
