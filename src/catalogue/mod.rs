//! Which models exist, what they cost and how much they may answer.
