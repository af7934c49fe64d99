"""GGUF models through llama.cpp, in this process; the engine and the generators share them."""
