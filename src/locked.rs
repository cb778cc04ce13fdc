//! A locked file that gives its lock back when it is dropped: what says that a folder is in use.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;

/// A file with a lock that nobody else holds, neither in this process nor in another one.
///
/// Closing a file gives a lock back only once nobody else has it open, and a child that was just
/// born holds all of its parent's files until its program begins; hence the lock is given back
/// explicitly. The kernel does so whichever way a process ends.
#[derive(Debug)]
pub struct Locked(File);

impl Locked {
    /// Takes the lock without waiting; `None` where somebody else has it.
    ///
    /// # Errors
    /// The file system has no locks.
    pub fn take(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.unlock().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_second_gets_it_once_the_first_has_dropped_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let first = Locked::take(open()).unwrap().unwrap();
        // What a child that was just born holds.
        let inherited = first.try_clone().unwrap();
        assert!(Locked::take(open()).unwrap().is_none());
        drop(first);
        assert!(Locked::take(open()).unwrap().is_some());
        drop(inherited);
    }
}
