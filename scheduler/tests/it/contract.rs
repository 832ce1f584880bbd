//! What every store promises, whichever stands behind the traits. A store joins with one line per suite.

pub(crate) mod artifacts;
pub(crate) mod catalog;
pub(crate) mod keyvalue;
