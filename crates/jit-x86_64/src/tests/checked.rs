//! Checked programs.
