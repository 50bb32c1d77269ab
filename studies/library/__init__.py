"""Libraries of a pretrained model's possible replacements: fitted, scored, assembled and measured."""
