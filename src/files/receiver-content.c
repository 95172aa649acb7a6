/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Contents: which file the sender speaks about, its bytes, its end; and the slices of work that a resume
 * brings, which go on between the peer's words.
 */

#include "files/receiver-state.h"

#include <fcntl.h>

#include "base/base.h"

/* The content of entry `number` is spoken about: 1: it is r->current; 0: nobody wants it any more; -EBADMSG.
 */
static int select_current(Receiver *r, uint64_t number)
{
        if (r->state != CURRENT_NONE && r->current_number == number)
                return r->state == CURRENT_OPEN;
        if (r->state == CURRENT_OPEN || r->n_offers == 0 || receiver_offer_at(r, 0)->number != number)
                return receiver_protocol(r, "content comes for no entry that waits for it");
        r->current = receiver_take_offer(r);
        r->current_number = number;
        r->state = CURRENT_OPEN;
        return 1;
}

/* The current file cannot be finished; the rest of its content is of no use. */
static void give_up_current(Receiver *r, int error, const char *what)
{
        Incoming *in = TAKE(r->current);

        receiver_failed(r, in->number, in->e->path, error, what);
        receiver_drop(r, in, true);
        r->is_behind = false;
        receiver_swallow(r, r->current_number);
}

static const char *what_failed(int error)
{
        return error == EILSEQ ? "Its content arrived damaged" : "Cannot write it";
}

/* Holes and what a resume found count like what was sent. */
static void count_content(Receiver *r, Incoming *in)
{
        r->progress.n_bytes += in->end - in->n_counted;
        in->n_counted = in->end;
}

/* *ret_taken: how many bytes of the record's content; 0 or -EBADMSG */
int receiver_on_data(Receiver *r, const Record *record, size_t *ret_taken)
{
        ssize_t k;
        int selected;

        *ret_taken = record->n_data;
        selected = select_current(r, record->entry);
        if (selected <= 0)
                return selected;
        k = incoming_write(r->current, record->offset, record->data, record->n_data);
        r->is_behind = k == -EINPROGRESS;
        if (k == -EINPROGRESS)
                k = 0;
        if (k == -EBADMSG)
                return receiver_protocol(r, "content is not where or not as long as it was announced");
        if (k < 0) {
                give_up_current(r, (int)-k, what_failed((int)-k));
                return 0;
        }
        count_content(r, r->current);
        *ret_taken = (size_t)k;
        return 0;
}

static void settle_current(Receiver *r)
{
        Incoming *in = TAKE(r->current);
        const char *note = NULL;
        int e = 0;

        r->state = CURRENT_NONE;
        r->progress.digest = r->final_digest;
        if (in->is_sink) {
                if (fsync(in->fd) < 0 && errno != EINVAL && errno != EROFS && errno != EOPNOTSUPP)
                        receiver_failed(r, in->number, in->e->path, errno, "Cannot make it durable");
                else
                        r->progress.n_files++;
                receiver_drop(r, in, false);
                return;
        }
        e = incoming_complete(in, &r->rules, &note);
        if (e >= 0)
                e = publish_add(r->publish, in->d, in->name, in->number, TAKE_FD(in->fd),
                                in->n_unsynced > 0 ? in->n_unsynced : in->end);
        if (e < 0)
                receiver_failed(r, in->number, in->e->path, -e, "Cannot complete it");
        else if (note)
                receiver_failed(r, in->number, in->e->path, 0, note);
        receiver_drop(r, in, true);
}

/* Tries to finish the current file. */
void receiver_finish_current(Receiver *r)
{
        int e = incoming_finish(r->current, r->final_size, r->final_digest);

        if (e == -EINPROGRESS || e == -EAGAIN) {
                r->state = CURRENT_FINISHING;
                return;
        }
        if (e < 0) {
                give_up_current(r, -e, what_failed(-e));
                return;
        }
        count_content(r, r->current);
        settle_current(r);
}

int receiver_on_file_end(Receiver *r, const Record *record)
{
        int selected = select_current(r, record->entry);

        if (selected < 0)
                return selected;
        if (selected == 0) {
                r->state = CURRENT_NONE;
                return 0;
        }
        r->final_size = record->size;
        r->final_digest = record->digest;
        receiver_finish_current(r);
        return 0;
}

/* The sender could not read something. */
int receiver_on_failed(Receiver *r, const Record *record)
{
        WireError error = record->error == WIRE_OK ? WIRE_FAILED : record->error;
        int selected;

        if (record->entry != UINT64_MAX) {
                selected = select_current(r, record->entry);
                if (selected < 0)
                        return selected;
                if (selected > 0) {
                        missing_add(&r->missing, r->current->e->path);
                        receiver_drop(r, TAKE(r->current), true);
                }
                r->state = CURRENT_NONE;
                if (selected == 0)
                        return 0; /* it had failed here before */
        }
        if (record->flags & RECORD_FLAG_SKIPPED) {
                receiver_report(r, WIRE_OK, record->text, record->path);
                return 0;
        }
        if (r->is_tree)
                missing_add(&r->missing, record->path);
        r->progress.n_failed++;
        receiver_remember(r, error, record->text, record->path);
        receiver_report(r, error, record->text, record->path);
        return 0;
}

/* The first offer whose temporary is not examined yet. */
static Incoming *find_unexamined(Receiver *r)
{
        for (size_t i = 0; i < r->n_offers; i++)
                if (receiver_offer_at(r, i)->is_resumed && !receiver_offer_at(r, i)->is_examined)
                        return receiver_offer_at(r, i);
        return NULL;
}

static void examine(Receiver *r, Incoming *in)
{
        int e = incoming_examine(in);

        if (e == -EINPROGRESS)
                return;
        if (e < 0) {
                /* What cannot be read is written anew. */
                in->n_blocks = 0;
        }
        if (incoming_keeps(in))
                (void)record_put_want(&r->out, in->number, WANT_REST, in->have, in->blocks, in->n_blocks);
        else
                (void)record_put_want(&r->out, in->number, WANT_ALL, 0, NULL, 0);
}

static void verify(Receiver *r)
{
        static uint8_t buf[256 * 1024];
        ssize_t k = 0;

        for (int i = 0; i < 32; i++) {
                k = read(r->verify_fd, buf, sizeof buf);
                if (k <= 0)
                        break;
                digest_update(r->verify, buf, (size_t)k);
        }
        if (k > 0)
                return;
        if (k == 0)
                r->progress.digest = digest_value(r->verify);
        r->verify_fd = fd_close(r->verify_fd);
        if (r->is_ending)
                receiver_end(r);
}

/* A slice of what takes long and needs nothing from the peer. False: there is nothing such. */
bool receiver_work(Receiver *r)
{
        Incoming *in;

        if (r->state == CURRENT_FINISHING) {
                receiver_finish_current(r);
                return r->state != CURRENT_FINISHING || receiver_fd(r) < 0;
        }
        if (r->verify_fd >= 0) {
                verify(r);
                return true;
        }
        in = find_unexamined(r);
        if (in) {
                examine(r, in);
                return true;
        }
        return r->is_behind;
}
