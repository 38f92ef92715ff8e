//! A sorted list of cpus, written and read the way the kernel does: `0-3,8`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The greatest cpu index that [`CpuList`] reads from text; Linux stops far below it.
const MAX_CPU: u32 = 1 << 16;

/// Cpus by the operating system's index, sorted, each once.
///
/// ```
/// use lunasa::topology::CpuList;
/// let cpus: CpuList = [8, 0, 1, 2, 3, 3].into_iter().collect();
/// assert_eq!(cpus.to_string(), "0-3,8");
/// assert_eq!("0-3,8".parse(), Ok(cpus));
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct CpuList(Vec<u32>);

impl CpuList {
    /// Whether `cpu` is in the list.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.binary_search(&cpu).is_ok()
    }

    /// The cpus, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// How many cpus are in the list.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the list holds no cpu.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The cpus that are in both lists.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.iter().filter(|&cpu| other.contains(cpu)).collect())
    }

    /// The list as the bit mask that `sched_setaffinity` takes; empty for an empty list.
    pub(crate) fn to_mask(&self) -> Vec<libc::c_ulong> {
        let bits = libc::c_ulong::BITS;
        let words = self.0.last().map_or(0, |last| last / bits + 1);
        let mut mask = vec![0; words as usize];
        for cpu in self.iter() {
            mask[(cpu / bits) as usize] |= 1 << (cpu % bits);
        }
        mask
    }

    /// The cpus whose bits are set in a mask as `sched_getaffinity` fills it.
    pub(crate) fn from_mask(mask: &[libc::c_ulong]) -> Self {
        let bits = libc::c_ulong::BITS;
        (0..mask.len() as u32 * bits).filter(|bit| mask[(bit / bits) as usize] >> (bit % bits) & 1 == 1).collect()
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let mut cpus: Vec<u32> = cpus.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        Self(cpus)
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| a + 1 == *b);
        for (i, run) in runs.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match run {
                [only] => write!(f, "{comma}{only}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuList({self})")
    }
}

impl FromStr for CpuList {
    type Err = Error;

    /// Reads `0-3,8`; white space around it and an empty list are allowed.
    ///
    /// # Errors
    /// [`Error::Config`] when a part is neither an index nor a rising range of them.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |part: &str| {
            Error::Config(format!("cpu list {text:?}: {part:?} is not an index or range up to {MAX_CPU}, such as 0-3"))
        };
        let number =
            |part: &str, digits: &str| digits.parse::<u32>().ok().filter(|n| *n <= MAX_CPU).ok_or_else(|| wrong(part));
        let mut cpus = Vec::new();
        for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(part, first)?, number(part, last)?);
            if first > last {
                return Err(wrong(part));
            }
            cpus.extend(first..=last);
        }
        Ok(cpus.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_what_the_kernel_writes() {
        let list = |cpus: &[u32]| cpus.iter().copied().collect::<CpuList>().to_string();
        assert_eq!(list(&[]), "");
        assert_eq!(list(&[5]), "5");
        assert_eq!(list(&[0, 1]), "0-1");
        assert_eq!(list(&[9, 1, 0, 2, 8, 5]), "0-2,5,8-9");
    }

    #[test]
    fn wrong_text_is_refused_by_its_part() {
        for (text, part) in
            [("0-3,x", "\"x\""), ("3-1", "\"3-1\""), ("1,,2", "\"\""), ("-1", "\"-1\""), ("99999", "99999")]
        {
            let error = text.parse::<CpuList>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!(" 0-1\n".parse::<CpuList>().unwrap().len(), 2);
        assert!("\n".parse::<CpuList>().unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn text_and_mask_hold_the_whole_list(cpus in proptest::collection::vec(0u32..2000, 0..80)) {
            let list: CpuList = cpus.iter().copied().collect();
            prop_assert_eq!(&list.to_string().parse::<CpuList>().unwrap(), &list);
            prop_assert_eq!(&CpuList::from_mask(&list.to_mask()), &list);
            prop_assert!(list.iter().zip(list.iter().skip(1)).all(|(a, b)| a < b));
            prop_assert!((0..2000).all(|cpu| list.contains(cpu) == cpus.contains(&cpu)));
        }
    }
}
