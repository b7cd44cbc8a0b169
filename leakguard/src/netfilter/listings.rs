//! What nft lists, kept until a table changes: a listing takes a process.

use std::collections::BTreeMap;

use super::{NetfilterError, Table, generation, list_table, resolve, run};

/// Listings of a namespace's tables. Counters in them are as old as the last change.
#[derive(Debug, Default)]
pub struct Listings {
    /// The number of the ruleset that they are of.
    generation: Option<u32>,
    /// By what nft was asked for; `None` where there is no such table.
    texts: BTreeMap<String, Option<String>>,
    /// What some of them mean, by family.
    tables: BTreeMap<&'static str, Table>,
}

/// A change of nothing but leases, by the numbers of the ruleset before and after.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Renewal {
    pub(super) before: u32,
    pub(super) after: u32,
}

impl Renewal {
    /// The number that a ruleset has now, if it is still what it was under this one but for leases.
    pub fn applied_to(self, generation: u32) -> Option<u32> {
        (generation == self.before).then_some(self.after)
    }
}

impl Listings {
    /// Leases are in no listing that matters: what was listed before one still holds.
    pub fn note(&mut self, renewal: Renewal) {
        self.generation = self.generation.and_then(|found| renewal.applied_to(found));
    }

    /// Reads one table of the second net; `None` if it does not exist.
    pub(super) async fn net(
        &mut self,
        family: &'static str,
    ) -> Result<Option<Table>, NetfilterError> {
        let Some(listing) = self.table(family).await? else {
            return Ok(None);
        };
        if let Some(table) = self.tables.get(family) {
            return Ok(Some(table.clone()));
        }
        let table =
            Table::parse(&listing, resolve).map_err(|source| NetfilterError::Decode { source })?;
        if self.texts.contains_key(family) {
            self.tables.insert(family, table.clone());
        }
        Ok(Some(table))
    }

    /// Lists one table as JSON; `None` if it does not exist.
    pub(super) async fn table(&mut self, family: &str) -> Result<Option<String>, NetfilterError> {
        let before = self.current();
        if let Some(text) = self.texts.get(family) {
            return Ok(text.clone());
        }
        let text = list_table(family).await?;
        self.keep(before, family.to_owned(), text.as_ref());
        Ok(text)
    }

    /// Lists the chains of a family as text, which says what some versions of nft leave out of JSON.
    pub(super) async fn chains(&mut self, family: &str) -> Result<String, NetfilterError> {
        let before = self.current();
        let key = format!("chains {family}");
        if let Some(Some(text)) = self.texts.get(&key) {
            return Ok(text.clone());
        }
        let text = run(&["list", "chains", family], "").await?;
        self.keep(before, key, Some(&text));
        Ok(text)
    }

    /// The ruleset's number; what is of another one is forgotten.
    fn current(&mut self) -> Option<u32> {
        let now = generation();
        if now.is_none() || now != self.generation {
            self.texts.clear();
            self.tables.clear();
        }
        self.generation = now;
        now
    }

    /// Keeps a listing that nobody has changed meanwhile.
    fn keep(&mut self, before: Option<u32>, key: String, text: Option<&String>) {
        if before.is_some() && generation() == before {
            self.texts.insert(key, text.cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_changes_nothing_of_what_was_listed_right_before_it() {
        let renewal = Renewal {
            before: 7,
            after: 8,
        };
        let mut listings = Listings {
            generation: Some(7),
            ..Listings::default()
        };
        listings.note(renewal);
        assert_eq!(listings.generation, Some(8));
        listings.note(renewal);
        assert_eq!(listings.generation, None, "somebody else had come between");
    }
}
