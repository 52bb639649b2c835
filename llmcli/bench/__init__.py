"""What `llm bench` measures, one part a file: ceilings, training, generation, preparing, start-up."""
