//! Reading ahead: one thread reads and parses, another one adds up. Each takes about half of the time.

use std::{
    panic,
    sync::mpsc::{channel, sync_channel},
    thread::{self, Builder},
};

use anyhow::{Context as _, Result};

/// Hands over what `read` gives, in its order, while that goes on in a thread of its own, which also frees what was
/// taken: that takes as long as some of the adding up. Two are there at most: one is taken while the next one is read.
/// What it is given to is false when nobody takes any more.
///
/// # Errors
/// Those of `read`, or there is no thread.
pub(super) fn ahead<T: Send, R: Send>(
    read: impl FnOnce(&mut dyn FnMut(T) -> bool) -> Result<R> + Send,
    mut take: impl FnMut(&T),
) -> Result<R> {
    // Handed over, not queued: an interval is some megabytes.
    let (give, given) = sync_channel(0);
    let (done, taken) = channel();
    thread::scope(|scope| {
        let run = move || {
            read(&mut |item| {
                let is_taken = give.send(item).is_ok();
                // All that was taken by now, before the next one is read.
                taken.try_iter().for_each(drop);
                is_taken
            })
        };
        let reading = Builder::new().name("reading".to_owned()).spawn_scoped(scope, run);
        let reading = reading.context("there is no thread to read recordings")?;
        for item in given {
            take(&item);
            // Where the thread has ended it is freed here.
            let _last = done.send(item);
        }
        reading.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn all_comes_in_its_order_and_then_how_it_ended() {
        let mut taken = Vec::new();
        let read = |give: &mut dyn FnMut(u32) -> bool| -> Result<&str> {
            assert!((0..100).all(give));
            Ok("the end")
        };
        assert_eq!(ahead(read, |number| taken.push(*number)).expect("read"), "the end");
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
        let broken = |give: &mut dyn FnMut(u32) -> bool| -> Result<()> {
            give(7);
            anyhow::bail!("torn")
        };
        let mut taken = Vec::new();
        let error = ahead(broken, |number| taken.push(*number)).expect_err("torn");
        assert_eq!((error.to_string().as_str(), taken), ("torn", vec![7]));
    }

    #[test]
    fn two_are_there_at_most() {
        let one = Arc::new(());
        let read = |give: &mut dyn FnMut(Arc<()>) -> bool| -> Result<usize> {
            let mut most = 0;
            for _ in 0..100 {
                let item = Arc::clone(&one);
                most = most.max(Arc::strong_count(&one) - 1);
                assert!(give(item));
            }
            Ok(most)
        };
        let most = ahead(read, |_| ()).expect("read");
        assert!(most <= 2, "{most}: one is read, and one is taken");
        assert_eq!(Arc::strong_count(&one), 1, "none is left");
    }
}
