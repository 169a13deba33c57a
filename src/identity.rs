//! Who a proxy is: what is read of its certificate or its token.

pub mod tokens;
