//! Which files a folder holds, on the disk itself and not in the kernel's memory alone.

use std::fs::File;
use std::io;
use std::path::Path;

/// Tells the disk what names the files of a folder go by: after a power cut a file that was synced is found
/// by its name only then. Some file systems, of a network mostly, keep that without being told, and refuse.
///
/// # Errors
/// The folder is gone, or the disk says no.
pub fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if !keeps_names_anyhow(&error) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn keeps_names_anyhow(refusal: &io::Error) -> bool {
    matches!(refusal.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_synced_unless_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        sync(folder.path()).unwrap();
        let gone = sync(&folder.path().join("gone")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_system_that_cannot_be_told_is_no_bad_disk() {
        for number in [22, 95] {
            assert!(
                keeps_names_anyhow(&io::Error::from_raw_os_error(number)),
                "EINVAL, EOPNOTSUPP"
            );
        }
        for number in [5, 28, 30] {
            assert!(
                !keeps_names_anyhow(&io::Error::from_raw_os_error(number)),
                "EIO, ENOSPC, EROFS"
            );
        }
    }
}
