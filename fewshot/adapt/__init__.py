"""What few labelled images change: class embeddings, prompts, weights of the image encoder."""
