//! `resolv.conf` edited in place.
//!
//! In place and not by rename: the file may be a bind mount (`ip netns exec`, containers), over which rename fails, or a
//! symlink into another program's directory, whose file it then is that changes. Before the file is touched a record of
//! the edit is written to the state directory; the record goes when the edit is undone, so what is there at the start of
//! the daemon was left behind by one that was killed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::resolv_conf::{self, Mark};

/// What was done to the file, and what it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    path: PathBuf,
    zone: String,
    link: String,
    /// Nothing if there was no file.
    original: Option<String>,
    written: String,
}

/// An edit that can be undone.
#[derive(Debug)]
pub(super) struct Edit {
    record: Record,
    record_path: PathBuf,
}

impl Edit {
    /// Puts our server and our zone into the file at `path`.
    pub(super) fn make(path: &Path, mark: Mark<'_>, server: Ipv4Addr, state_dir: &Path) -> anyhow::Result<Self> {
        let path = target(path)?;
        let original = read(&path)?;
        let written = resolv_conf::add(original.as_deref().unwrap_or_default(), mark, server);
        let record = Record { path, zone: mark.zone.to_owned(), link: mark.link.to_owned(), original, written };
        let edit = Self { record_path: record_path(state_dir, mark)?, record };
        edit.save().with_context(|| format!("Failed to write {}", edit.record_path.display()))?;
        if let Err(error) = rewrite(&edit.record.path, &edit.record.written) {
            let path = edit.record.path.display().to_string();
            // Nothing or part of it was written, so undoing takes out what there is of it.
            let _ = edit.undo();
            return Err(error).with_context(|| format!("Failed to write {path}"));
        }
        Ok(edit)
    }

    /// Restores the file, or takes our lines out of it if somebody changed it meanwhile.
    pub(super) fn undo(self) -> anyhow::Result<()> {
        let Record { path, zone, link, original, written } = &self.record;
        let mark = Mark { zone, link };
        match (read(path)?, original) {
            (None, _) => {}
            (Some(current), Some(original)) if current == *written => rewrite(path, original)?,
            (Some(current), original) => {
                let left = resolv_conf::remove(&current, mark);
                if left.is_empty() && original.is_none() {
                    delete(path)?;
                } else if left != current {
                    rewrite(path, &left)?;
                }
            }
        }
        fs::remove_file(&self.record_path).with_context(|| format!("Failed to remove {}", self.record_path.display()))
    }

    fn save(&self) -> anyhow::Result<()> {
        if let Some(folder) = self.record_path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = self.record_path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&self.record)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.record_path)?;
        Ok(())
    }
}

/// The edits a daemon on this state directory did not live to undo. A record that cannot be read is reported and kept.
pub(super) fn left_behind(state_dir: &Path) -> Vec<anyhow::Result<Edit>> {
    let Ok(entries) = fs::read_dir(folder(state_dir)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")).map(load).collect()
}

fn load(record_path: PathBuf) -> anyhow::Result<Edit> {
    let context = || format!("Failed to read {}", record_path.display());
    let record = serde_json::from_slice(&fs::read(&record_path).with_context(context)?).with_context(context)?;
    Ok(Edit { record, record_path })
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("dns")
}

fn record_path(state_dir: &Path, mark: Mark<'_>) -> anyhow::Result<PathBuf> {
    for word in [mark.zone, mark.link] {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
        if word.is_empty() || word.starts_with('.') || !word.chars().all(plain) {
            bail!("`{word}` cannot stand in resolv.conf");
        }
    }
    Ok(folder(state_dir).join(format!("{}@{}.json", mark.zone, mark.link)))
}

/// The file behind a symlink, also where that file does not exist (yet).
fn target(path: &Path) -> anyhow::Result<PathBuf> {
    let mut path = path.to_owned();
    // As many steps as the kernel takes (path_resolution(7)).
    for _ in 0..40 {
        let Ok(next) = fs::read_link(&path) else { return Ok(path) };
        path = path.parent().unwrap_or(Path::new("/")).join(next);
    }
    bail!("{} is a symlink to itself", path.display())
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("Failed to read {}", path.display())),
    }
}

/// Writes first and cuts after, so that no reader finds the file empty.
fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// A mount point cannot be removed (EBUSY); an empty file says the same.
fn delete(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|_| rewrite(path, ""))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    const MARK: Mark<'_> = Mark { zone: "home.internal", link: "ov-home" };
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
    const BEFORE: &str = "nameserver 192.0.2.53\nsearch example.com\n";

    /// A folder of its own for each test, gone at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("overlay-resolv-{}-{test}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn resolv_conf(&self) -> PathBuf {
            self.0.join("resolv.conf")
        }

        fn text(&self) -> Option<String> {
            fs::read_to_string(self.resolv_conf()).ok()
        }

        fn make(&self) -> anyhow::Result<Edit> {
            Edit::make(&self.resolv_conf(), MARK, SERVER, &self.0.join("state"))
        }

        fn records(&self) -> usize {
            fs::read_dir(self.0.join("state/dns")).map(Iterator::count).unwrap_or_default()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_file_comes_back_as_it_was() {
        let folder = Folder::new("restore");
        fs::write(folder.resolv_conf(), BEFORE.trim_end()).unwrap();
        let inode = fs::metadata(folder.resolv_conf()).unwrap().ino();
        let edit = folder.make().unwrap();
        assert!(folder.text().unwrap().contains("nameserver 10.64.0.1\n"));
        assert_eq!(folder.records(), 1);
        edit.undo().unwrap();
        assert_eq!(folder.text().unwrap(), BEFORE.trim_end());
        assert_eq!((folder.records(), fs::metadata(folder.resolv_conf()).unwrap().ino()), (0, inode));
    }

    #[test]
    fn a_killed_daemon_is_cleaned_up_after() {
        let folder = Folder::new("crash");
        fs::write(folder.resolv_conf(), BEFORE).unwrap();
        drop(folder.make().unwrap());
        for edit in left_behind(&folder.0.join("state")) {
            edit.unwrap().undo().unwrap();
        }
        assert_eq!((folder.text().unwrap().as_str(), folder.records()), (BEFORE, 0));
        assert!(left_behind(&folder.0.join("state")).is_empty());
    }

    #[test]
    fn a_daemon_killed_before_it_wrote_leaves_nothing_to_undo() {
        let folder = Folder::new("early");
        fs::write(folder.resolv_conf(), BEFORE).unwrap();
        drop(folder.make().unwrap());
        fs::write(folder.resolv_conf(), BEFORE).unwrap();
        for edit in left_behind(&folder.0.join("state")) {
            edit.unwrap().undo().unwrap();
        }
        assert_eq!((folder.text().unwrap().as_str(), folder.records()), (BEFORE, 0));
    }

    #[test]
    fn a_file_that_somebody_changed_loses_our_lines_only() {
        let folder = Folder::new("changed");
        fs::write(folder.resolv_conf(), BEFORE).unwrap();
        let edit = folder.make().unwrap();
        let changed = format!("{}options edns0\n", folder.text().unwrap().replace("192.0.2.53", "192.0.2.1"));
        fs::write(folder.resolv_conf(), changed).unwrap();
        edit.undo().unwrap();
        assert_eq!(folder.text().unwrap(), "nameserver 192.0.2.1\nsearch example.com\noptions edns0\n");
    }

    #[test]
    fn a_file_that_was_replaced_is_left_alone() {
        let folder = Folder::new("replaced");
        fs::write(folder.resolv_conf(), BEFORE).unwrap();
        let edit = folder.make().unwrap();
        fs::write(folder.resolv_conf(), "nameserver 192.0.2.7\n").unwrap();
        edit.undo().unwrap();
        assert_eq!(folder.text().unwrap(), "nameserver 192.0.2.7\n");
    }

    #[test]
    fn a_missing_file_is_missing_again() {
        let folder = Folder::new("missing");
        let edit = folder.make().unwrap();
        assert!(folder.text().unwrap().contains("search home.internal\n"));
        edit.undo().unwrap();
        assert_eq!(folder.text(), None);
    }

    #[test]
    fn a_symlink_stays_one() {
        let folder = Folder::new("symlink");
        fs::create_dir(folder.0.join("run")).unwrap();
        fs::write(folder.0.join("run/resolv.conf"), BEFORE).unwrap();
        symlink("run/resolv.conf", folder.resolv_conf()).unwrap();
        let edit = folder.make().unwrap();
        assert!(fs::read_to_string(folder.0.join("run/resolv.conf")).unwrap().contains("10.64.0.1"));
        edit.undo().unwrap();
        assert!(folder.resolv_conf().is_symlink());
        assert_eq!(folder.text().unwrap(), BEFORE);
    }

    #[test]
    fn a_dangling_symlink_is_filled_and_dangles_again() {
        let folder = Folder::new("dangling");
        symlink("not/there/resolv.conf", folder.resolv_conf()).unwrap();
        let edit = folder.make().unwrap();
        assert!(folder.text().unwrap().contains("10.64.0.1"));
        edit.undo().unwrap();
        assert_eq!((folder.text(), folder.resolv_conf().is_symlink()), (None, true));
        symlink("loop", folder.0.join("loop")).unwrap();
        assert!(target(&folder.0.join("loop")).is_err());
    }

    #[test]
    fn a_broken_record_is_reported_and_kept() {
        let folder = Folder::new("broken");
        fs::create_dir_all(folder.0.join("state/dns")).unwrap();
        fs::write(folder.0.join("state/dns/x.json"), "{").unwrap();
        assert!(left_behind(&folder.0.join("state"))[0].is_err());
        assert_eq!(folder.records(), 1);
    }

    #[test]
    fn a_name_with_a_slash_or_a_line_end_gets_nowhere() {
        let folder = Folder::new("names");
        for zone in ["../x", "a/b", "a b", "a\nnameserver 1.2.3.4", ""] {
            let mark = Mark { zone, link: "ov-home" };
            assert!(Edit::make(&folder.resolv_conf(), mark, SERVER, &folder.0).is_err());
        }
        assert_eq!(folder.text(), None);
    }
}
