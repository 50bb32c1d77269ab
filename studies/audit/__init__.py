"""The audit of a study's proxy: does it rank architectures as longer training would?"""
