//! Reading a file from front to back: every checksum, the chain of batches, and the fold of the
//! records. The rule for torn and rotten spots is argued in [`format`](crate::format).

use std::io;

use crate::disk::DiskFile;
use crate::extent::Extent;
use crate::format::batch::{BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader};
use crate::format::file_header::FileHeader;
use crate::format::frame::{FRAME_BYTES, FrameSeed, Record};
use crate::format::{ALIGN, Damage, FileUuid, aligned, frame};
use crate::image::{Image, Purge};
use crate::window::Window;

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) extent: Extent,
    /// State of the log after the file's last whole batch.
    pub(crate) image: Image,
    /// Number of the batch that comes next.
    pub(crate) next_batch: u64,
    /// Header CRC of the last whole batch, or of the one before the file.
    pub(crate) last_crc: u32,
    /// Whether the last whole batch says more than what was synced.
    pub(crate) unmarked: bool,
    /// Where the last whole batch is, if there is one.
    pub(crate) last: Option<Place>,
    /// Why no further batch was found at the extent's end.
    pub(crate) stop: Stop,
}

/// Where a batch is, and what it says of itself and of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: u64,
    number: u64,
    previous_crc: u32,
}

/// Why a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There is no whole batch.
    NoBatch(Damage),
    /// There is a whole batch, every sum of it right, that says what no log says. Not torn.
    Impossible(Damage),
}

impl Stop {
    pub(crate) const fn damage(self) -> Damage {
        match self {
            Self::NoBatch(damage) | Self::Impossible(damage) => damage,
        }
    }
}

/// Scans `file`, whose header was read already, up to the first spot that is not a whole batch.
pub(crate) fn scan(
    file: &dyn DiskFile,
    len: u64,
    header: &FileHeader,
    header_bytes: u64,
) -> io::Result<Scan> {
    let mut window = Window::new(file, len);
    let mut scan = Scan {
        extent: Extent::new(header.first_index, header_bytes),
        image: header.image(),
        next_batch: header.first_batch,
        last_crc: header.previous_crc,
        unmarked: false,
        last: None,
        stop: Stop::NoBatch("no batch"),
    };
    let seed = FrameSeed::new(&header.uuid);
    let mut frames = Vec::new();
    loop {
        frames.clear();
        let taken = match read_batch(&mut window, scan.next(), &header.uuid, seed, &mut frames)? {
            Ok((batch, crc)) => scan.take(&batch, crc, &frames),
            Err(stop) => Err(stop),
        };
        if let Err(stop) = taken {
            scan.stop = stop;
            return Ok(scan);
        }
    }
}

/// Whether the batch at `place` is whole, and is the one that has this header CRC.
pub(crate) fn is_whole(
    file: &dyn DiskFile,
    len: u64,
    uuid: &FileUuid,
    place: Place,
    crc: u32,
) -> io::Result<bool> {
    let seed = FrameSeed::new(uuid);
    let read = read_batch(&mut Window::new(file, len), place, uuid, seed, &mut Vec::new())?;
    Ok(read.is_ok_and(|(_, found)| found == crc))
}

/// Records of a batch with the positions of their frames.
type Frames = Vec<(Record, u64)>;

fn read_batch(
    window: &mut Window<'_>,
    place: Place,
    uuid: &FileUuid,
    seed: FrameSeed,
    frames: &mut Frames,
) -> io::Result<Result<(BatchHeader, u32), Stop>> {
    let torn = |damage| Ok(Err(Stop::NoBatch(damage)));
    let start = place.position;
    let Some(bytes) = window.array::<BATCH_HEADER_BYTES>(start)? else {
        return torn("file ends");
    };
    let (batch, crc) = match BatchHeader::decode(&bytes, uuid) {
        Ok(decoded) => decoded,
        Err(damage) => return torn(damage),
    };
    if batch.number != place.number || batch.previous_crc != place.previous_crc {
        return torn("batch does not follow the one before");
    }
    if batch.is_seal() {
        return Ok(Err(Stop::Impossible("the file after it is missing")));
    }
    let mut position = start + BATCH_HEADER_BYTES as u64;
    let room = window.len().saturating_sub(position);
    if batch.length > room || aligned(batch.length) > room {
        // The file was this long before the batch was begun.
        return Ok(Err(Stop::Impossible("batch is longer than the file")));
    }
    let end = position + batch.length;
    let mut frames_crc = 0;
    for _ in 0..batch.frames {
        let head = match window.array::<FRAME_BYTES>(position)? {
            Some(head) if position + FRAME_BYTES as u64 <= end => head,
            _ => return torn("frames are longer than their batch"),
        };
        frames_crc = crc32c::crc32c_append(frames_crc, frame::crc_bytes(&head));
        let header = match frame::decode(&head) {
            Ok(header) => header,
            Err(damage) => return torn(damage),
        };
        let payload = position + FRAME_BYTES as u64;
        let length = header.record.payload_len() as u64;
        if length > end - payload {
            return torn("frame is longer than its batch");
        }
        if window.crc(seed.header_sum(&head), payload, length)? != Some(header.crc) {
            return torn("frame checksum does not match");
        }
        frames.push((header.record, position));
        position = payload + length;
    }
    if position != end || frames_crc != batch.frames_crc {
        return torn("frames do not add up to their batch");
    }
    Ok(Ok((batch, crc)))
}

impl Scan {
    /// Where the batch after the last whole one is expected.
    fn next(&self) -> Place {
        let position = self.extent.end;
        Place { position, number: self.next_batch, previous_crc: self.last_crc }
    }

    /// Folds a whole batch into the state.
    fn take(&mut self, batch: &BatchHeader, crc: u32, frames: &Frames) -> Result<(), Stop> {
        for (record, position) in frames {
            match *record {
                Record::Entry { id, .. } => {
                    let taken = self.image.append(id);
                    taken.map_err(|_| Stop::Impossible("entry does not follow the one before"))?;
                    self.extent.entry(id.index, *position);
                }
                Record::Vote(vote) => self.image.vote = Some(vote),
                Record::Committed(id) => self.image.committed = Some(id),
                Record::Purged(id) => {
                    if self.image.purge(id) == Purge::Jump {
                        self.extent.jump(self.image.next_index());
                    }
                }
                Record::Truncate(kept) => {
                    let next = self.image.cut_at(kept);
                    self.image.truncate(next);
                    self.extent.truncate(next);
                }
            }
        }
        self.last = Some(self.next());
        self.extent.end += aligned(BATCH_HEADER_BYTES as u64 + batch.length);
        self.next_batch += 1;
        self.last_crc = crc;
        self.unmarked = batch.frames > 0;
        Ok(())
    }
}

/// Position of an intact batch header, at or after `from`, that proves batch `number` was synced.
pub(crate) fn proof_of_sync(
    file: &dyn DiskFile,
    len: u64,
    from: u64,
    uuid: &FileUuid,
    number: u64,
) -> io::Result<Option<u64>> {
    /// Most of a preallocated file is zeros; comparing them in blocks is the fast way past.
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut window = Window::new(file, len);
    let mut position = from;
    loop {
        let some = window.at(position)?;
        if some.len() < BATCH_MAGIC.len() {
            return Ok(None);
        }
        if some.first_chunk() == Some(&ZEROS) {
            position += ZEROS.len() as u64;
            continue;
        }
        if some.starts_with(&BATCH_MAGIC)
            && let Some(bytes) = window.array::<BATCH_HEADER_BYTES>(position)?
            && let Ok((batch, _)) = BatchHeader::decode(&bytes, uuid)
            && batch.synced_through >= number
        {
            return Ok(Some(position));
        }
        position += ALIGN;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::batch::Batch;
    use crate::block_writer::BlockWriter;
    use crate::disk::{Disk, SimDisk};
    use crate::image::TermTable;
    use crate::{Entry, EntryId, Payload};

    const UUID: FileUuid = [5; 16];

    fn header() -> FileHeader {
        FileHeader {
            uuid: UUID,
            sequence: 1,
            first_index: 0,
            incarnation: 0,
            previous: None,
            first_batch: 1,
            previous_crc: 0,
            vote: None,
            committed: None,
            purged: None,
            file_bytes: 8192,
            terms: TermTable::default(),
        }
    }

    /// Batches of the given entries; `link` may tamper with the CRC by which each names the one before.
    fn scanned(batches: &[&[Entry]], link: impl Fn(u64, u32) -> u32, swap: Option<usize>) -> Scan {
        let disk = SimDisk::default();
        let file = disk.create("file".as_ref(), 8192).expect("creates");
        let (mut batch, mut position, mut crc) = (Batch::new(), 0, 0);
        for (number, entries) in (1..).zip(batches) {
            batch.clear(FrameSeed::new(&UUID));
            entries.iter().for_each(|entry| batch.push_entry(entry));
            crc = batch.seal(BatchHeader {
                uuid: UUID,
                number,
                synced_through: number - 1,
                length: 0,
                frames: 0,
                previous_crc: link(number, crc),
                frames_crc: 0,
            });
            batch.write(&mut BlockWriter::new(Arc::clone(&file)), position).expect("writes");
            position += batch.file_bytes();
        }
        if let Some(at) = swap {
            let mut bytes =
                disk.contents("file").expect("is there")[at..at + 2 * FRAME_BYTES].to_vec();
            bytes.rotate_left(FRAME_BYTES);
            let slices = &mut [io::IoSlice::new(&bytes)];
            crate::disk::write_all_vectored_at(&*file, slices, at as u64).expect("writes");
        }
        scan(&*file, 8192, &header(), 0).expect("reads")
    }

    fn entry(index: u64) -> Entry {
        Entry { id: EntryId::new(1, index), kind: 0, payload: Payload::empty() }
    }

    #[test]
    fn batches_are_a_chain() {
        let batches: [&[Entry]; 2] = [&[entry(0)], &[entry(1)]];
        assert_eq!(scanned(&batches, |_, crc| crc, None).image.next_index(), 2);
        let broken = scanned(&batches, |number, crc| if number == 2 { !crc } else { crc }, None);
        assert_eq!(broken.image.next_index(), 1);
        assert_eq!(broken.stop, Stop::NoBatch("batch does not follow the one before"));
    }

    #[test]
    fn whole_frames_in_another_order_are_not_the_batch() {
        let scan = scanned(&[&[entry(0), entry(1)]], |_, crc| crc, Some(BATCH_HEADER_BYTES));
        assert_eq!(scan.stop, Stop::NoBatch("frames do not add up to their batch"));
    }

    #[test]
    fn a_whole_batch_that_makes_no_sense_is_not_torn() {
        let scan = scanned(&[&[entry(0)], &[entry(5)]], |_, crc| crc, None);
        assert_eq!(scan.stop, Stop::Impossible("entry does not follow the one before"));
    }

    #[test]
    fn a_short_part_and_a_long_one_come_back() {
        let payload = Payload::new(vec![Bytes::from_static(b"short"), Bytes::from(vec![1; 3000])]);
        let long = Entry { payload, ..entry(0) };
        assert_eq!(scanned(&[&[long]], |_, crc| crc, None).image.next_index(), 1);
    }
}
