//! The bytes themselves.
#[derive(Debug, Default)]
pub struct FrameCache {}
