//! What a caller may use: the shapes of limits, budgets and prices.

pub mod config;
