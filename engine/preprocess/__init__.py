"""From a source image and its prompts to the arrays that the two graphs take."""
