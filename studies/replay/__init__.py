"""A finished table of trainings, and what replays it: schedulers and samplers are tested on it in seconds."""
