"""PSNR and SSIM as the tables of super-resolution papers have them."""
