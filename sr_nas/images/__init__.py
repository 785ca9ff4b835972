"""Images as arrays: reading, writing and MATLAB's bicubic resizing."""
