//! Processes that end with whom they belong to.

use std::{
    ops::{Deref, DerefMut},
    process::Child,
};

/// A process that is killed when this is dropped.
#[derive(Debug)]
#[must_use = "the process is killed when this is dropped"]
pub struct Own(Child);

impl From<Child> for Own {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Deref for Own {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Own {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}
