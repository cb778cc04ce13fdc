//! Files read whole, up to a bound: a wrong path must cost neither memory nor a crash.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of a file of at most `mebibytes`.
///
/// # Errors
/// Why it cannot be read, in words that go after "cannot be read:".
pub(super) fn read(path: &Path, mebibytes: u32) -> Result<Vec<u8>, String> {
    let limit = u64::from(mebibytes) << 20;
    let too_long = || Err(format!("it is longer than {mebibytes} MiB"));
    let file = File::open(path).map_err(|error| error.to_string())?;
    let meta = file.metadata().map_err(|error| error.to_string())?;
    if meta.is_dir() {
        return Err("it is a directory".into());
    }
    // Pipes and devices tell no length: those stop at the bound.
    if meta.len() > limit {
        return too_long();
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return too_long();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_endless_files_and_directories_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("long");
        File::create(&file).unwrap().set_len((1 << 20) + 1).unwrap();
        assert_eq!(read(&file, 1), Err("it is longer than 1 MiB".into()));
        assert_eq!(read(Path::new("/dev/zero"), 1), Err("it is longer than 1 MiB".into()));
        assert_eq!(read(folder.path(), 1), Err("it is a directory".into()));
        assert_eq!(read(&file, 2).map(|bytes| bytes.len()), Ok((1 << 20) + 1));
    }
}
