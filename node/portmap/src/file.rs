//! The record of what was asked for, so that the next process can delete what this one does not live to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::mapping::Left;

/// Far more than 128 entries take.
const MOST_BYTES: u64 = 256 * 1024;

/// What is on disk at `path`; nothing where no mapping is left.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub(crate) fn load(path: &Path) -> anyhow::Result<Vec<Left>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("Failed to read {}", path.display())),
    };
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let left = serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    Ok(left)
}

/// Replaces the record whole: after a crash it is the old one or the new one. Without entries there is none.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn save(path: &Path, left: &[Left]) -> anyhow::Result<()> {
    if left.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("Failed to remove {}", path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        };
    }
    let partial = path.with_extension("new");
    write(&partial, left).with_context(|| format!("Failed to write {}", partial.display()))?;
    fs::rename(&partial, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn write(path: &PathBuf, left: &[Left]) -> anyhow::Result<()> {
    // What a nonce says must not be read by others: it lets one delete the mapping.
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec_pretty(left)?)?;
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::tests::left;

    #[test]
    fn the_record_comes_back_and_only_its_owner_may_read_it() {
        let folder = std::env::temp_dir().join(format!("overlay-portmap-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("port-mappings.json");
        assert_eq!(load(&path).unwrap(), []);
        save(&path, &[left()]).unwrap();
        assert_eq!(load(&path).unwrap(), [left()]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        save(&path, &[]).unwrap();
        save(&path, &[]).unwrap();
        assert!(!path.exists());
        fs::write(&path, b"[{").unwrap();
        assert!(load(&path).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
