//! The arguments of a URL, and what pages read from them.

use axum::http::Uri;

use super::access::arguments;
use crate::snapshot::{ObjectKey, ObjectQuery};

/// The arguments of a URL, decoded, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(pub(super) Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &Uri) -> Self {
        Self(arguments(uri).collect())
    }

    /// The first argument of that name; an empty one counts as none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.trim().parse().ok()
    }

    /// The same arguments with these set (an empty value: left out), as a link on the page itself.
    pub(super) fn link(&self, set: &[(&str, &str)]) -> String {
        let kept = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let kept = kept.filter(|(name, value)| {
            !value.is_empty() && !matches!(*name, "token" | "page") && set.iter().all(|(own, _)| own != name)
        });
        let mut text = form_urlencoded::Serializer::for_suffix(String::from("?"), 1);
        text.extend_pairs(kept.chain(set.iter().copied().filter(|(_, value)| !value.is_empty())));
        text.finish()
    }
}

/// What a table is sorted by.
#[derive(Debug, Clone)]
pub(super) struct Sorting<'a> {
    pub(super) key: &'a str,
    pub(super) descending: bool,
    pub(super) query: &'a Query,
}

impl<'a> Sorting<'a> {
    /// As the arguments say: one of `keys`, else the first of them in the order given.
    pub(super) fn new(query: &'a Query, keys: &[&'a str], descending: bool) -> Self {
        match query.get("sort").and_then(|asked| keys.iter().find(|key| **key == asked)) {
            Some(key) => Self { key, descending: query.get("order") == Some("desc"), query },
            None => Self { key: keys.first().copied().unwrap_or_default(), descending, query },
        }
    }

    /// Puts rows in this order.
    pub(super) fn apply<T, K: Ord>(&self, rows: &mut [T], key: impl Fn(&T) -> K) {
        rows.sort_by_cached_key(|row| key(row));
        if self.descending {
            rows.reverse();
        }
    }
}

/// Keys that lists of objects can be sorted by.
pub(super) const OBJECT_KEYS: [&str; 5] = ["data", "meta", "references", "type", "address"];

/// Which objects a page of `limit` (or fewer, if asked for) is to show.
pub(super) fn object_query(pool: &str, query: &Query, sorting: &Sorting<'_>, limit: usize) -> ObjectQuery {
    let pair = |text: &str| text.split_once('-').and_then(|(key, at)| Some((key.parse().ok()?, at.parse().ok()?)));
    ObjectQuery {
        pool: pool.to_owned(),
        sort: match sorting.key {
            "data" => ObjectKey::Data,
            "meta" => ObjectKey::Meta,
            "references" => ObjectKey::References,
            "type" => ObjectKey::Type,
            _ => ObjectKey::Address,
        },
        descending: sorting.descending,
        of_type: query.get("type").unwrap_or_default().trim().to_owned(),
        min_bytes: query.number("min").unwrap_or(0),
        max_bytes: query.number("max"),
        after: query.get("after").and_then(pair),
        limit: query.number("limit").map_or(limit, |asked| (asked as usize).clamp(1, limit)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x?{text}").parse().unwrap())
    }

    #[test]
    fn a_link_keeps_what_was_asked_but_never_the_token() {
        let query = query("sort=data&type=a%26b&token=secret&min=");
        assert_eq!(query.link(&[("sort", "meta"), ("order", "desc")]), "?type=a%26b&sort=meta&order=desc");
        assert_eq!(query.link(&[("type", ""), ("sort", "")]), "?");
    }

    #[test]
    fn an_order_that_is_not_known_is_the_first() {
        let keys = ["bytes", "rank"];
        let asked = query("sort=rank&order=desc");
        let sorting = Sorting::new(&asked, &keys, true);
        assert_eq!((sorting.key, sorting.descending), ("rank", true));
        let asked = query("sort=%3Cb%3E&order=asc");
        let sorting = Sorting::new(&asked, &keys, true);
        assert_eq!((sorting.key, sorting.descending), ("bytes", true));
        let mut rows = [3, 1, 2];
        sorting.apply(&mut rows, |row| *row);
        assert_eq!(rows, [3, 2, 1]);
    }

    #[test]
    fn numbers_that_are_none_ask_for_nothing_and_a_page_has_its_limit() {
        let asked = query("min=x&max=&after=12-&limit=1000000");
        let found = object_query("eager", &asked, &Sorting::new(&asked, &OBJECT_KEYS, true), 100);
        assert_eq!((found.min_bytes, found.max_bytes, found.after, found.limit), (0, None, None, 100));
        let asked = query("after=7-4096&limit=0&sort=address");
        let found = object_query("eager", &asked, &Sorting::new(&asked, &OBJECT_KEYS, true), 100);
        assert_eq!((found.after, found.limit, found.sort), (Some((7, 4096)), 1, ObjectKey::Address));
    }
}
