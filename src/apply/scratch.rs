//! A directory for a test, gone with it, also when it fails.

use std::ops::Deref;
use std::path::{Path, PathBuf};

/// An empty directory.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("netrec-{name}-{}", std::process::id()));
        // What a killed run left behind, whose number this one has again.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).expect("nobody else is in there");
        Self(directory)
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
