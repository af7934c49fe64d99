"""Messages to tokens: one file per engine that people run."""
