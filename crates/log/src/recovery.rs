//! Opening a log: which files there are, where the log ends, and what it says.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, make_dir, read_full_at, write_all_vectored_at};
use crate::error::{Attempt, DiskFailure, OpenError};
use crate::extent::Extent;
use crate::files::{FileSet, Held, LogFile};
use crate::format::Damage;
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::file_header::{FIXED_BYTES, FileHeader, HeaderError, VERSION};
use crate::format::frame::FrameSeed;
use crate::format::positions::Identity;
use crate::hub::Hub;
use crate::new_file::{self, SPARE};
use crate::options::{BuiltinBug, FILE_BYTES_MAX, FILE_BYTES_MIN, LogOptions};
use crate::scan::{Scan, Stop, is_whole, proof_of_sync, scan};
use crate::shard_writer::{Recovered, ShardWriter, Spare};

/// A file does not get shorter.
const SHORTER: Damage = "file is shorter than it was";

/// What was found when a log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// There was no log; it was made.
    pub created: bool,
    /// Files of the log.
    pub files: usize,
    /// Files that were read from front to back: the newest, and closed ones without a position index.
    pub scanned: usize,
    /// The last write was not whole and was cut off. Nothing in it was ever acknowledged.
    pub torn: Option<TornTail>,
    /// Incarnation of the replica in the newest file's header.
    pub incarnation: u64,
}

/// Where a log was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file, relative to the disk's root.
    pub file: PathBuf,
    /// Byte at which the batch began that is not whole.
    pub position: u64,
    /// What it lacks.
    pub what: &'static str,
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, position, what } = self;
        write!(f, "{} was cut at byte {position}: {what}", file.display())
    }
}

/// A log file whose header was read.
struct Found {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    size: u64,
    header: FileHeader,
    header_bytes: u64,
}

impl Found {
    fn log_file(&self) -> LogFile {
        LogFile {
            path: self.path.clone(),
            file: Arc::clone(&self.file),
            uuid: self.header.uuid,
            seed: FrameSeed::new(&self.header.uuid),
            sequence: self.header.sequence,
            header_bytes: self.header_bytes,
        }
    }

    fn scan(&self) -> Result<Scan, DiskFailure> {
        scan(&*self.file, self.size, &self.header, self.header_bytes).attempt("read", &self.path)
    }

    fn rot(&self, position: u64, index: u64, what: &'static str) -> OpenError {
        OpenError::Rot { file: self.path.clone(), position, index, what }
    }
}

/// Opens, or makes, the log in `dir`.
pub(crate) fn open(
    hub: &Arc<Hub>,
    dir: &Path,
    options: LogOptions,
) -> Result<(ShardWriter, RecoveryReport), OpenError> {
    if !(FILE_BYTES_MIN..=FILE_BYTES_MAX).contains(&options.file_bytes) {
        return Err(OpenError::Option {
            option: "file_bytes",
            value: options.file_bytes,
            min: FILE_BYTES_MIN,
            max: FILE_BYTES_MAX,
        });
    }
    let disk = &*hub.disk;
    make_dir(disk, dir).attempt("make", dir)?;
    let names = disk.list(dir).attempt("list", dir)?;
    let mut found = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".log")) {
        found.push(read_header(disk, dir.join(name))?);
    }
    found.sort_by_key(|found| found.header.sequence);
    let Some(newest) = found.last() else {
        return create(hub, dir, options, &names);
    };
    let mut report = RecoveryReport {
        files: found.len(),
        incarnation: newest.header.incarnation,
        ..RecoveryReport::default()
    };
    check_chain(dir, &found)?;

    let mut held = Vec::with_capacity(found.len());
    for pair in found.windows(2) {
        let extent = closed_extent(disk, &pair[0], &pair[1], &mut report.scanned)?;
        held.push(Held { file: Arc::new(pair[0].log_file()), extent });
    }
    let tail = newest.scan()?;
    report.scanned += 1;
    find_rot(newest, &tail, &options)?;
    held.push(Held { file: Arc::new(newest.log_file()), extent: tail.extent.clone() });
    let files = FileSet::new(held);
    check_beginning(dir, &found[0], &files, &tail)?;

    // From here on the disk is changed: nothing above may be an error any more.
    if let [.., closed, newest] = &found[..] {
        // Whoever began the newest may have ended before that was said. Also what is there may not be
        // durable.
        new_file::seal(&closed.log_file(), &newest.header)?;
    }
    report.torn = cut(newest, &tail, &options)?;
    make_durable(newest, &tail, &options)?;
    disk.sync_dir(dir).attempt("sync", dir)?;
    let spare = adopt_spare(disk, dir, &names, options.file_bytes)?;
    let recovered = Recovered {
        files,
        image: tail.image,
        next_batch: tail.next_batch,
        last_crc: tail.last_crc,
        unmarked: tail.unmarked,
        file_bytes: newest.header.file_bytes.max(tail.extent.end),
        spare,
    };
    Ok((ShardWriter::new(hub, dir, options, recovered), report))
}

fn read_header(disk: &dyn Disk, path: PathBuf) -> Result<Found, OpenError> {
    let file = disk.open(&path).attempt("open", &path)?;
    let size = file.size().attempt("read", &path)?;
    let header = read_header_bytes(&*file).attempt("read", &path)?;
    let decoded = header.and_then(|bytes| Ok((FileHeader::decode(&bytes)?, bytes.len() as u64)));
    match decoded {
        Ok((header, header_bytes)) => Ok(Found { path, file, size, header, header_bytes }),
        Err(HeaderError::Version(found)) => {
            Err(OpenError::Version { file: path, found, known: VERSION })
        }
        Err(HeaderError::Damaged(what)) => {
            // A file has its name only once its header is durable: this was whole.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let index = name.split('.').next().and_then(|first| first.parse().ok()).unwrap_or(0);
            Err(OpenError::Rot { file: path, position: 0, index, what })
        }
    }
}

fn read_header_bytes(file: &dyn DiskFile) -> io::Result<Result<Vec<u8>, HeaderError>> {
    let mut start = [0; FIXED_BYTES];
    let read = read_full_at(file, &mut start, 0)?;
    if read < FIXED_BYTES {
        return Ok(Err(HeaderError::Damaged("file header is cut short")));
    }
    let length = match FileHeader::length(&start) {
        Ok(length) => length,
        Err(error) => return Ok(Err(error)),
    };
    let mut bytes = vec![0; length];
    let read = read_full_at(file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Ok(bytes))
}

/// Each file must name the one before it: files are removed oldest first, one by one.
fn check_chain(dir: &Path, found: &[Found]) -> Result<(), OpenError> {
    for pair in found.windows(2) {
        let previous = pair[1].header.previous.map(|previous| previous.uuid);
        let follows = pair[1].header.sequence == pair[0].header.sequence + 1;
        if !follows || previous != Some(pair[0].header.uuid) {
            return Err(OpenError::MissingFile {
                log: dir.to_owned(),
                needed: pair[0].header.first_index,
                found: pair[1].header.first_index,
            });
        }
    }
    Ok(())
}

/// What is above the purge point must be there.
fn check_beginning(
    dir: &Path,
    oldest: &Found,
    files: &FileSet,
    tail: &Scan,
) -> Result<(), OpenError> {
    let needed = tail.image.purged.map_or(0, |purged| purged.index.saturating_add(1));
    let found = files.floor();
    if found > needed && oldest.header.previous.is_some() {
        return Err(OpenError::MissingFile { log: dir.to_owned(), needed, found });
    }
    Ok(())
}

/// What a closed file holds: from its position index, else from the file.
fn closed_extent(
    disk: &dyn Disk,
    found: &Found,
    next: &Found,
    scanned: &mut usize,
) -> Result<Extent, OpenError> {
    let end = next.header.previous.map_or(0, |previous| previous.end);
    let identity = Identity { uuid: found.header.uuid, end, last_crc: next.header.previous_crc };
    let file = found.log_file();
    // An index knows nothing of what became of the file.
    let is_cut = found.size < end;
    if !is_cut
        && let Some(extent) = new_file::load_positions(disk, &file.positions_path(), &identity)?
    {
        return Ok(extent);
    }
    *scanned += 1;
    let scan = found.scan()?;
    if is_cut || scan.extent.end != end || scan.last_crc != identity.last_crc {
        // The next file was begun after every byte of this one was synced.
        let what = if is_cut { SHORTER } else { scan.stop.damage() };
        return Err(found.rot(scan.extent.end, scan.image.next_index(), what));
    }
    new_file::save_positions(disk, &file, scan.last_crc, &scan.extent);
    Ok(scan.extent)
}

/// Tells rot from a torn tail at the end of the newest file.
fn find_rot(newest: &Found, tail: &Scan, options: &LogOptions) -> Result<(), OpenError> {
    if options.has_bug(BuiltinBug::RotAsTorn) {
        return Ok(());
    }
    let end = tail.extent.end;
    let index = tail.image.next_index();
    let damage = match tail.stop {
        Stop::Impossible(damage) => return Err(newest.rot(end, index, damage)),
        Stop::NoBatch(damage) => damage,
    };
    if newest.size < newest.header.file_bytes {
        // What was there may have proved that more was synced.
        return Err(newest.rot(end, index, SHORTER));
    }
    let uuid = &newest.header.uuid;
    let proof = proof_of_sync(&*newest.file, newest.size, end, uuid, tail.next_batch);
    match proof.attempt("read", &newest.path)? {
        Some(_) => Err(newest.rot(end, index, damage)),
        None => Ok(()),
    }
}

/// Makes sure that nothing at the log's end is ever taken for a batch again. Zeros that are there are
/// written all the same: an earlier recovery may have written them, and its sync may have failed.
fn cut(newest: &Found, tail: &Scan, options: &LogOptions) -> Result<Option<TornTail>, DiskFailure> {
    let (path, end) = (&newest.path, tail.extent.end);
    let mut bytes = [0; BATCH_HEADER_BYTES];
    let read = read_full_at(&*newest.file, &mut bytes, end).attempt("read", path)?;
    if !options.has_bug(BuiltinBug::KeepTornHeader) {
        let zeros = &[0; BATCH_HEADER_BYTES][..read];
        write_all_vectored_at(&*newest.file, &mut [IoSlice::new(zeros)], end)
            .attempt("write", path)?;
    }
    if bytes == [0; BATCH_HEADER_BYTES] {
        return Ok(None);
    }
    // What names neither this file nor the batch before is of a recycled file's earlier life.
    let torn = bytes[8..24] == newest.header.uuid || bytes[48..52] == tail.last_crc.to_le_bytes();
    Ok(torn.then(|| TornTail { file: path.clone(), position: end, what: tail.stop.damage() }))
}

/// Makes durable what was read. The last batch is written again, as it is: if its sync has failed
/// before, its bytes are in the page cache, counted as clean, and no sync would write them. All
/// batches before it are durable, for each is written after the sync of the one before.
fn make_durable(newest: &Found, tail: &Scan, options: &LogOptions) -> Result<(), DiskFailure> {
    if options.has_bug(BuiltinBug::OpenWithoutSync) {
        return Ok(());
    }
    let (file, path) = (&*newest.file, &newest.path);
    let last = tail.last.filter(|_| !options.has_bug(BuiltinBug::OpenWithoutWrite));
    if let Some(last) = last {
        write_again(file, last.position, tail.extent.end).attempt("write again", path)?;
    }
    file.sync_data().attempt("sync", path)?;
    let Some(last) = last else { return Ok(()) };
    // What counts as clean may be dropped at any time, also between the two times it was read: then
    // what the disk has instead was written.
    let is_whole = is_whole(file, newest.size, &newest.header.uuid, last, tail.last_crc);
    if !is_whole.attempt("read", path)? {
        let gone = io::Error::other("the last batch was never written to the disk, and is gone");
        return Err(gone).attempt("write again", path);
    }
    Ok(())
}

/// Writes what the file holds between the two positions once more.
fn write_again(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    const PIECE_BYTES: u64 = 256 << 10;
    let mut piece = Vec::new();
    let mut position = from;
    while position < to {
        piece.resize((to - position).min(PIECE_BYTES) as usize, 0);
        if read_full_at(file, &mut piece, position)? < piece.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all_vectored_at(file, &mut [IoSlice::new(&piece)], position)?;
        position += piece.len() as u64;
    }
    Ok(())
}

/// Takes over what an earlier run left as spare, and removes what belongs to no log file.
fn adopt_spare(
    disk: &dyn Disk,
    dir: &Path,
    names: &[String],
    file_bytes: u64,
) -> Result<Option<Spare>, DiskFailure> {
    let orphan = |name: &&String| {
        name.strip_suffix(".pos").is_some_and(|stem| !names.contains(&format!("{stem}.log")))
    };
    for name in names.iter().filter(orphan) {
        let path = dir.join(name);
        disk.remove(&path).attempt("remove", &path)?;
    }
    if !names.iter().any(|name| name == SPARE) {
        return Ok(None);
    }
    let path = dir.join(SPARE);
    let file = disk.open(&path).attempt("open", &path)?;
    if file.size().attempt("read", &path)? == file_bytes {
        return Ok(Some(Spare { file, bytes: file_bytes }));
    }
    disk.remove(&path).attempt("remove", &path)?;
    Ok(None)
}

/// Makes the first file of a new log.
fn create(
    hub: &Arc<Hub>,
    dir: &Path,
    options: LogOptions,
    names: &[String],
) -> Result<(ShardWriter, RecoveryReport), OpenError> {
    let disk = &*hub.disk;
    disk.sync_dir(dir).attempt("sync", dir)?;
    let spare = match adopt_spare(disk, dir, names, options.file_bytes)? {
        Some(spare) => spare.file,
        None => new_file::create_spare(disk, dir, options.file_bytes)?,
    };
    let header = FileHeader {
        uuid: hub.draw_uuid(),
        sequence: 1,
        first_index: 0,
        incarnation: options.incarnation,
        previous: None,
        first_batch: 1,
        previous_crc: 0,
        vote: None,
        committed: None,
        purged: None,
        file_bytes: 0,
        terms: crate::image::TermTable::default(),
    }
    .with_file_bytes(options.file_bytes);
    let file = new_file::begin(disk, dir, &spare, &header, std::iter::empty())?;
    let report = RecoveryReport {
        created: true,
        files: 1,
        incarnation: options.incarnation,
        ..RecoveryReport::default()
    };
    let extent = Extent::new(0, file.header_bytes);
    let recovered = Recovered {
        files: FileSet::new(vec![Held { file: Arc::new(file), extent }]),
        image: header.image(),
        next_batch: 1,
        last_crc: 0,
        unmarked: false,
        file_bytes: header.file_bytes,
        spare: None,
    };
    Ok((ShardWriter::new(hub, dir, options, recovered), report))
}
