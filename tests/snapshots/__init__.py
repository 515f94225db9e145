"""Capture, restore and what stands between them and a lost or forged file."""
