"""What `GPUEmbeddings` and `GPURerank` share."""
