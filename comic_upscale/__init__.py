"""Upscale whole comic libraries with Real-ESRGAN."""
