//! BTF without lines: which source line an instruction comes of is more than half of an object, is read at each start,
//! and is told by nobody but the verifier's log.
//!
//! `.BTF` is `struct btf_header`, types and strings (include/uapi/linux/btf.h, 6.12); `.BTF.ext` says what
//! instructions are, by offsets into these strings (Documentation/bpf/btf.rst, 4.2).

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};

const MAGIC: u32 = 0xeb9f;

/// Bytes of a type before what its kind adds (`struct btf_type`).
const TYPE: usize = 12;

/// Bytes that say of how many bytes each record of a table of `.BTF.ext` is.
const RECORD_SIZE: usize = 4;

/// Both sections anew, without lines and without the strings that only lines refer to.
pub(super) fn without_lines(btf: &[u8], ext: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let header = Header::read(btf)?;
    let mut types = header.part(btf, 8)?.to_vec();
    let mut strings = Strings::of(header.part(btf, 16)?);
    each_name(&mut types, |name| strings.keep(name))?;
    let ext = tables(ext, &mut strings)?;
    let mut anew = btf.get(..header.bytes).context("a short header")?.to_vec();
    let sizes = [0, types.len(), types.len(), strings.kept.len()];
    for (at, size) in (8..).step_by(4).zip(sizes) {
        put(&mut anew, at, u32::try_from(size)?)?;
    }
    anew.extend(types);
    anew.extend(strings.kept);
    Ok((anew, ext))
}

/// `.BTF.ext` anew: functions and relocations as they are, and a table of no lines.
fn tables(ext: &[u8], strings: &mut Strings<'_>) -> Result<Vec<u8>> {
    let header = Header::read(ext)?;
    let mut anew = ext.get(..header.bytes).context("a short header")?.to_vec();
    let mut body = Vec::new();
    // Functions, lines, relocations: where each begins, and its bytes. Of a relocation the third word is a string.
    for (at, string) in [(8, None), (16, None), (24, Some(8))] {
        // Without relocations a header may end before them.
        if at + 8 > header.bytes {
            break;
        }
        put(&mut anew, at, u32::try_from(body.len())?)?;
        if at == 16 {
            put(&mut anew, at + 4, 0)?;
        } else {
            let mut table = header.part(ext, at)?.to_vec();
            each_string(&mut table, string, |name| strings.keep(name))?;
            body.extend(table);
        }
    }
    anew.extend(body);
    Ok(anew)
}

/// The header that both sections begin with.
struct Header {
    bytes: usize,
}

impl Header {
    fn read(section: &[u8]) -> Result<Self> {
        ensure!(word(section, 0)? & 0xffff == MAGIC, "it does not begin as BTF does");
        Ok(Self { bytes: word(section, 4)? as usize })
    }

    /// The part whose offset behind the header, and whose length, are at `at`.
    fn part<'a>(&self, section: &'a [u8], at: usize) -> Result<&'a [u8]> {
        let begin = self.bytes + word(section, at)? as usize;
        let end = begin + word(section, at + 4)? as usize;
        section.get(begin..end).context("a part of it is outside of it")
    }
}

/// The strings that something refers to, each once.
struct Strings<'a> {
    all: &'a [u8],
    kept: Vec<u8>,
    places: HashMap<&'a [u8], u32>,
}

impl<'a> Strings<'a> {
    /// None is kept but the empty one, which comes first.
    fn of(all: &'a [u8]) -> Self {
        Self { all, kept: vec![0], places: HashMap::from([(&[][..], 0)]) }
    }

    /// Where the string at `place` is from now on.
    fn keep(&mut self, place: u32) -> Result<u32> {
        let rest = self.all.get(place as usize..).context("a string outside of the strings")?;
        let string = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        if let Some(place) = self.places.get(string) {
            return Ok(*place);
        }
        let place = u32::try_from(self.kept.len())?;
        self.kept.extend(string);
        self.kept.push(0);
        self.places.insert(string, place);
        Ok(place)
    }
}

/// Replaces the place of each name in `types`.
fn each_name(types: &mut [u8], mut keep: impl FnMut(u32) -> Result<u32>) -> Result<()> {
    let mut at = 0;
    while at < types.len() {
        replace(types, at, &mut keep)?;
        let info = word(types, at + 4)?;
        let (kind, members) = (info >> 24 & 0x1f, info as usize & 0xffff);
        at += TYPE;
        // Bytes that the kind adds once, and for each member; whether a member begins with its name. What has no
        // members may count something else there, and adds nothing for it.
        let (once, each, named) = match kind {
            1 | 14 | 17 => (4, 0, false),
            2 | 7..=12 | 16 | 18 => (0, 0, false),
            3 => (12, 0, false),
            4 | 5 | 19 => (0, 12, true),
            6 | 13 => (0, 8, true),
            15 => (0, 12, false),
            unknown => bail!("a type of kind {unknown}, whose length is unknown here"),
        };
        at += once;
        for _ in 0..members {
            if named {
                replace(types, at, &mut keep)?;
            }
            at += each;
        }
    }
    Ok(())
}

/// Replaces the places of strings in a table of `.BTF.ext`: the name of each section, and in each record the one at
/// `string`.
fn each_string(
    table: &mut [u8],
    string: Option<usize>,
    mut keep: impl FnMut(u32) -> Result<u32>,
) -> Result<()> {
    if table.is_empty() {
        return Ok(());
    }
    let bytes = word(table, 0)? as usize;
    let mut at = RECORD_SIZE;
    while at < table.len() {
        replace(table, at, &mut keep)?;
        let records = word(table, at + 4)?;
        at += 8;
        for _ in 0..records {
            if let Some(string) = string {
                replace(table, at + string, &mut keep)?;
            }
            at += bytes;
        }
    }
    Ok(())
}

fn replace(bytes: &mut [u8], at: usize, keep: impl FnOnce(u32) -> Result<u32>) -> Result<()> {
    let place = keep(word(bytes, at)?)?;
    put(bytes, at, place)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).context("it ends too early")?;
    Ok(u32::from_le_bytes(*word))
}

fn put(bytes: &mut [u8], at: usize, word: u32) -> Result<()> {
    let place = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
    *place.context("it ends too early")? = word.to_le_bytes();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    const STRINGS: &[u8] = b"\0s\0a line of code\0m\0";

    /// Where `m` is in them.
    const M: u32 = 18;

    /// A structure `s` of a member `m`.
    fn types() -> Vec<u8> {
        let header = [MAGIC | 1 << 16, 24, 0, 24, 24, STRINGS.len() as u32];
        let structure = [1, 4 << 24 | 1, 4, M, 1, 0];
        [bytes(&header), bytes(&structure), STRINGS.to_vec()].concat()
    }

    /// A function, a line and a relocation by `s`, in a section `m`.
    fn instructions() -> Vec<u8> {
        let header = [MAGIC | 1 << 16, 32, 0, 20, 20, 28, 48, 28];
        let functions = [8, M, 1, 0, 1];
        let lines = [16, M, 1, 0, 3, 3, 7];
        let relocations = [16, M, 1, 0, 1, 1, 0];
        [&header[..], &functions, &lines, &relocations].map(bytes).concat()
    }

    #[test]
    fn lines_and_their_text_are_gone_and_nothing_else() {
        let (btf, ext) = without_lines(&types(), &instructions()).unwrap();
        assert_eq!(&btf[48..], b"\0s\0m\0", "the strings");
        assert_eq!(btf[8..24], bytes(&[0, 24, 24, 5]), "the header");
        assert_eq!(btf[24..48], bytes(&[1, 4 << 24 | 1, 4, 3, 1, 0]), "the types");
        assert_eq!(ext[8..32], bytes(&[0, 20, 20, 0, 20, 28]), "the header of tables");
        assert_eq!(ext[32..52], bytes(&[8, 3, 1, 0, 1]), "the functions");
        assert_eq!(ext[52..], bytes(&[16, 3, 1, 0, 1, 1, 0]), "the relocations");
    }

    #[test]
    fn a_header_may_end_before_relocations() {
        let header = [MAGIC | 1 << 16, 24, 0, 20, 20, 28];
        let (functions, lines) = ([8, M, 1, 0, 1], [16, M, 1, 0, 3, 3, 7]);
        let instructions = [&header[..], &functions, &lines].map(bytes).concat();
        let (_, ext) = without_lines(&types(), &instructions).unwrap();
        assert_eq!(ext[8..24], bytes(&[0, 20, 20, 0]), "the header of tables");
        assert_eq!(ext[24..], bytes(&[8, 3, 1, 0, 1]), "the functions");
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        assert!(without_lines(b"\x7fELF", &instructions()).is_err());
        assert!(without_lines(&types()[..30], &instructions()).is_err());
        let mut unknown = types();
        put(&mut unknown, 28, 31 << 24).unwrap();
        assert!(without_lines(&unknown, &instructions()).is_err());
    }
}
