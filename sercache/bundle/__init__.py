"""Everything that is needed to predict a new recording, in one folder."""
