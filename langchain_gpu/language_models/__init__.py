"""What `ChatGPU` and `GPULLM` share, and LangChain's messages, tools and schemas for engines."""
