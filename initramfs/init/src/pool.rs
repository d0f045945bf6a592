//! The threads that compress: started before the first page, and kept for all sources.
//!
//! Starting a thread takes memory, so none is started once the capture has taken its own.
//! The threads wait for tasks; the one that leads gives them one after the other and waits
//! for each. Nothing is allocated between [`with`]'s call of its lead and that one's end.
//!
//! Tests include this very file, so that the pool under test is the one that runs.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use lifeboat_engine::{EngineError, FrameSink, Input, Job, Seal, Shared, Worker, capture};

/// Bytes of a thread's stack. The deepest way is the one to another target, with some
/// 40 KiB of slots and blocks on it.
pub(crate) const STACK: usize = 256 << 10;

/// One worker's readers of all sources.
pub(crate) trait Sources: Send {
    /// That of source number `source`.
    fn input(&mut self, source: usize) -> Input<'_>;
}

/// What a thread works with.
pub(crate) struct Hand<'m> {
    pub(crate) worker: Worker,
    pub(crate) sources: Box<dyn Sources + 'm>,
}

/// Something to capture, and from where.
pub(crate) struct Task<'t> {
    pub(crate) job: Job<'t>,
    pub(crate) source: usize,
}

/// The threads, seen by who leads.
pub(crate) struct Pool {
    state: Mutex<State>,
    /// There is something to do, or the end.
    go: Condvar,
    /// A thread is ready, or done.
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// Number of the task, and how many there were so far.
    task: usize,
    round: u64,
    over: bool,
    /// Threads that wait for tasks, and those that work.
    idle: usize,
    working: usize,
    /// Room for one of each thread.
    errors: Vec<EngineError>,
}

/// Starts a thread for each of `hands` and calls `lead` when all are ready; they end when
/// it returns. With fewer threads than hands, some hands rest.
///
/// # Errors
/// Not even one thread could be started.
pub(crate) fn with<S, C, T>(
    hands: &mut [Hand<'_>],
    tasks: &[Task<'_>],
    frames: &Shared<S, C>,
    lead: impl FnOnce(&Pool) -> T,
) -> io::Result<T>
where
    S: FrameSink + Send,
    C: Seal + Send + Sync,
{
    let errors = Vec::with_capacity(hands.len());
    let state = Mutex::new(State { errors, ..State::default() });
    let pool = Pool { state, go: Condvar::new(), done: Condvar::new() };
    thread::scope(|scope| {
        // Whatever comes, the threads end, or the scope would not.
        let _end = Over(&pool);
        let mut started = 0;
        for hand in hands {
            let pool = &pool;
            let body = move || pool.work(hand, tasks, frames);
            let builder = thread::Builder::new().name("worker".into()).stack_size(STACK);
            match builder.spawn_scoped(scope, body) {
                Ok(_) => started += 1,
                Err(e) if started == 0 => return Err(e),
                Err(_) => break,
            }
        }
        let mut state = pool.lock();
        while state.idle < started {
            state = wait(&pool.done, state);
        }
        drop(state);
        Ok(lead(&pool))
    })
}

fn wait<'g>(on: &Condvar, state: MutexGuard<'g, State>) -> MutexGuard<'g, State> {
    on.wait(state).unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    // What the lock holds is whole at any time; a thread that dies with it changes nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has task number `task` done by all threads, and gives what went wrong to `failed`.
    pub(crate) fn run(&self, task: usize, mut failed: impl FnMut(EngineError)) {
        let mut state = self.lock();
        (state.task, state.round) = (task, state.round + 1);
        (state.working, state.idle) = (state.idle, 0);
        if state.working == 0 {
            failed(EngineError::Poisoned);
        }
        self.go.notify_all();
        while state.working > 0 {
            state = wait(&self.done, state);
        }
        state.errors.drain(..).for_each(&mut failed);
    }

    /// Threads that wait for tasks.
    pub(crate) fn threads(&self) -> usize {
        self.lock().idle
    }

    fn work<S, C>(&self, hand: &mut Hand<'_>, tasks: &[Task<'_>], frames: &Shared<S, C>)
    where
        S: FrameSink,
        C: Seal,
    {
        let mut round = 0;
        let mut state = self.lock();
        state.idle += 1;
        self.done.notify_all();
        loop {
            while state.round == round && !state.over {
                state = wait(&self.go, state);
            }
            if state.over {
                return;
            }
            round = state.round;
            let task = tasks.get(state.task);
            drop(state);
            let mut dying = Dying(Some(self));
            let result = task.map_or(Ok(()), |task| {
                capture(&mut hand.worker, &task.job, &mut hand.sources.input(task.source), frames)
            });
            dying.0 = None;
            state = self.lock();
            state.note(result);
            state.idle += 1;
            self.done.notify_all();
        }
    }
}

impl State {
    /// A thread is done with the task.
    fn note(&mut self, result: Result<(), EngineError>) {
        self.working = self.working.saturating_sub(1);
        if let Err(error) = result
            && self.errors.len() < self.errors.capacity()
        {
            self.errors.push(error);
        }
    }
}

/// Ends the threads.
struct Over<'p>(&'p Pool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.go.notify_all();
    }
}

/// A thread that dies in its task is done with it, and never idle again.
struct Dying<'p>(Option<&'p Pool>);

impl Drop for Dying<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.0 {
            pool.lock().note(Err(EngineError::Poisoned));
            pool.done.notify_all();
        }
    }
}
