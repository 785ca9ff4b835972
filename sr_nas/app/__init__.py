"""The page on which a person upscales photos in a browser."""
